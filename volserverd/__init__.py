"""volserverd: the volume server (VolServer) and the volume location service (VolumeLocation)."""
