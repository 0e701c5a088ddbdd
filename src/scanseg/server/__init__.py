"""The REST service: an untrusting web process, a job store, and one worker process per model."""
