"""Files for devices: TFLite with the chosen integers, and the check of what was written."""
