"""The command `tmem`."""
