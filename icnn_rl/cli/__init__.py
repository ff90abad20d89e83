"""The command line: the program, the options of its commands, and what each command does."""
