"""What may guide training next to the pictures: part masks, keypoints, surfaces, textures.

``labels`` names parts, ``surface`` knows where on the body texels lie, ``store`` keeps priors on
disk, ``rendered``, ``skeleton`` and ``networks`` make them, ``rows`` gives them to training,
``sheet`` shows them.  Nothing of it is deployed.
"""
