"""Models behind a server, as the parent process knows them: the folder that stands for one."""
