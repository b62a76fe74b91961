"""What people read: tables, reports and live progress.

Only `cli` imports it.
"""
