"""What a run leaves on a disk or in a bucket."""
