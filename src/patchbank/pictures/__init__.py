"""Maps, boxes and neighbours drawn over images: for reports, commands and the service."""
