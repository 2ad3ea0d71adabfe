"""The program that runs in the agent container. It imports neither ops nor the charm."""
