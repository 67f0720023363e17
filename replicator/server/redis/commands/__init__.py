"""The commands, one module a family. `table.TABLE` holds them all once this package's families are imported."""
