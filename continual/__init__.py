"""The stream of tasks, the loop, the methods, the record and the metrics."""
