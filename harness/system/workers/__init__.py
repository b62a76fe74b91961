"""Workers, one for each cell: how they are started, heard, told to stop and ended."""
