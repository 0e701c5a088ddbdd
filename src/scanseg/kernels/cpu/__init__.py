"""The selective scan on processors, compiled by Numba when it is first used. Importing this imports Numba."""
