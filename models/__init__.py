"""Requests, results and the engines that turn one into the other. Knows nothing of jobs, queues, SQL or S3."""
