"""What plugins subclass and are given: methods, tasks, scorers, judges, executors, trackers.

Every layer above `config` and every plugin may import it; it imports `config` and what is
below.
"""
