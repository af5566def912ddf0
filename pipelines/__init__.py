"""The recipes behind the commands: each reads top to bottom and is the place where the rooms meet."""
