"""The fileserver: serves files to clients, promises to call them back, and keeps those promises."""
