"""The commands of `progrpo`, one file each."""
