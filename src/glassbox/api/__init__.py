"""The public names of `import glassbox`."""
