"""Tool calls: of rows, and as models write them."""
