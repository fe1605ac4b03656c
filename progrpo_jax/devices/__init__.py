"""Device meshes and the processes of multi-host runs."""
