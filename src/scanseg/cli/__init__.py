"""The command line: one file a verb; verbs parse arguments, call `scanseg.pipeline` and print."""
