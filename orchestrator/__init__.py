"""Jobs: what was asked for, what has been done, what runs next. Imports neither torch nor ray."""
