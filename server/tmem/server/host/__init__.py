"""What the daemon asks of the machine that it runs on."""
