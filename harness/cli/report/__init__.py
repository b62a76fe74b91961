"""The report: one page that opens from a disk, made of records and their sample files."""
