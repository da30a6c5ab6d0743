"""SFT, preference and policy objectives, rollouts, graders."""
