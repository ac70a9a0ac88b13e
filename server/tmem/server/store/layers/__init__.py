"""Small stores around a store: each does one thing and asks the one below for the rest."""
