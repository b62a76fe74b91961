"""What opens models. It lives on the public names of the harness."""
