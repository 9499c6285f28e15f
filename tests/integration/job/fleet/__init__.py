"""The main job's own small package."""
