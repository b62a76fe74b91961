"""What others measured: lm-eval's results as records, peft's comparison as a table of its own."""
