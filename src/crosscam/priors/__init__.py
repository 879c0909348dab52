"""What may guide training next to the pictures: part masks, keypoints, textures.

``labels`` names parts, ``store`` keeps priors on disk, ``rendered``, ``skeleton`` and ``networks``
make them, ``rows`` gives them to training, ``sheet`` shows them.  Nothing of it is deployed.
"""
