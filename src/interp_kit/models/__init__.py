"""The networks: trained, converted, and planted with a known mechanism."""
