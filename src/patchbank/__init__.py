"""patchbank: show it good parts, and it finds the bad ones."""
