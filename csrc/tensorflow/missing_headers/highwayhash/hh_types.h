// Empty: see highwayhash.h.
