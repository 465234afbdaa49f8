"""The words from which the captions of the drawn scenes are put together.

What stands first or twice in a list is said more often; this is what makes some words rare.
"""

NOUNS = {
    "boy": ("boy", "boy", "boy", "young boy", "little boy", "child", "kid"),
    "girl": ("girl", "girl", "girl", "young girl", "little girl", "child", "kid"),
    "man": ("man", "man", "man", "guy", "person"),
    "woman": ("woman", "woman", "woman", "lady", "person"),
    "dog": ("dog", "dog", "dog", "dog", "puppy"),
    "bird": ("bird",),
    "boat": ("boat", "sailboat"),
}
PLURALS = {
    "child": "children",
    "man": "men",
    "woman": "women",
    "person": "people",
    "lady": "ladies",
    "puppy": "puppies",
}
RARE_ADJECTIVES = {
    "person": ("cheerful", "smiling"),
    "dog": ("playful", "happy"),
    "bird": ("graceful", "large"),
    "boat": ("lovely", "wooden"),
}

# Each verb as: running, runs, run. What comes first is said most often.
VERBS = {
    "run": (
        ("running", "runs", "run"),
        ("racing", "races", "race"),
        ("sprinting", "sprints", "sprint"),
    ),
    "jump": (("jumping", "jumps", "jump"), ("leaping", "leaps", "leap")),
    "sit": (("sitting", "sits", "sit"), ("resting", "rests", "rest")),
    "ride": (("riding", "rides", "ride"),),
    "play": (("playing", "plays", "play"),),
    "kick": (("kicking", "kicks", "kick"),),
    "chase": (("chasing", "chases", "chase"), ("following", "follows", "follow")),
    "swim": (("swimming", "swims", "swim"), ("paddling", "paddles", "paddle")),
    "fly": (
        ("flying", "flies", "fly"),
        ("soaring", "soars", "soar"),
        ("gliding", "glides", "glide"),
    ),
    "sail": (
        ("sailing", "sails", "sail"),
        ("floating", "floats", "float"),
        ("drifting", "drifts", "drift"),
    ),
}

PLACES = {
    "grass": (
        "in the grass",
        "on the grass",
        "in a green field",
        "on the lawn",
        "in a meadow",
        "in the park",
    ),
    "beach": (
        "on the beach",
        "on the sand",
        "by the ocean",
        "near the sea",
        "at the beach",
        "on the shore",
    ),
    "snow": ("in the snow", "in the deep snow", "on a snowy hill", "in a snowy field"),
    "street": ("on the street", "on the road", "in the street", "in front of some houses"),
    "lake": ("in the lake", "in the water", "in the blue water"),
}
PATHS = {
    "grass": (
        "through the grass",
        "across the grass",
        "across a green field",
        "across the lawn",
        "through a meadow",
    ),
    "beach": (
        "along the beach",
        "on the beach",
        "across the sand",
        "along the shore",
        "by the ocean",
    ),
    "snow": ("through the snow", "through the deep snow", "across a snowy field", "in the snow"),
    "street": ("down the street", "along the road", "down the road", "past some houses"),
    "lake": ("across the lake", "through the water", "in the lake", "in the water"),
}
SEATS = {
    "grass": ("on a bench in the park", "on a bench", "on a wooden bench", "on a park bench"),
    "beach": ("on the sand", "under an umbrella", "on the beach", "under an umbrella at the beach"),
    "snow": ("on a bench in the snow", "on a bench", "on a wooden bench"),
    "street": ("on a bench", "on a bench by the street", "on a wooden bench", "on the sidewalk"),
}
BELOW_THE_BIRDS = {
    "grass": ("over a green field", "above the grass", "over the trees", "over a meadow"),
    "beach": ("over the beach", "above the ocean", "over the sea", "above the sand"),
    "snow": ("over the snow", "above a snowy field", "over the snowy mountains"),
    "street": ("over the houses", "above the street", "over the road"),
    "lake": ("over the lake", "above the water", "over the blue water"),
}
ON_THE_WATER = ("on the lake", "on the water", "across the lake", "on the blue water")
EXTRAS = {
    "grass": ("near some trees", "with trees in the background"),
    "beach": ("near the waves", "with the ocean in the background"),
    "snow": ("near the mountains", "with mountains in the background"),
    "street": ("near some houses", "with houses in the background"),
    "lake": ("near the shore", "with hills in the background"),
}
WEATHER = {
    "clear": ("on a sunny day", "under a blue sky"),
    "cloudy": ("on a cloudy day", "under a gray sky"),
    "sunset": ("at sunset", "in the evening"),
}
VIEWS = {
    "grass": ("a green field", "a grassy meadow", "a park"),
    "beach": ("a sandy beach", "a beach by the ocean"),
    "snow": ("a snowy field", "a snowy hill"),
    "street": ("a quiet street", "a street in town"),
    "lake": ("a calm lake", "a blue lake"),
}
