"""The theory on the sphere: pair samplers with known laws, closed forms, and maps whose loss is known exactly."""
