"""What lm-eval logs of each question, as sample rows and metrics; imports no lm-eval."""
