"""What several methods inherit or call: choosing channels, gates on components, posteriors, masks."""
