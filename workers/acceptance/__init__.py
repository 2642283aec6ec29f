"""What is accepted: the rules of a job, the checks that they become, and what is done with an answer that fails one."""
