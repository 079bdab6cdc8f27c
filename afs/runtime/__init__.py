"""What every daemon needs around its core: clock, driver, server, interceptors, channels, configuration, logs."""
