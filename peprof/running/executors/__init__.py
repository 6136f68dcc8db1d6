"""Where runs run: today this machine."""
