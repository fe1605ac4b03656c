"""The policy: one decoder, its cache, and its import and export."""
