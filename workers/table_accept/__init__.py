"""Which rows of a table are accepted: rules that a row meets or breaks alone, and rules over all rows."""
