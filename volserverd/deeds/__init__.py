"""What each step of an operation does: one file a theme, put together by `volume_work`."""
