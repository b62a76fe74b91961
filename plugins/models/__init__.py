"""What opens models. It imports the harness, and no other plugin."""
