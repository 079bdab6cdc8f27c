"""What the daemons have around their cores: clock, server, channels, configuration, logs."""
