"""SQL over the store: SQLite's engine reads the tables as virtual tables, and what it would write become changes."""
