"""Lexicon of the playground: data that world, rule editor and oracle use independently of each other."""

# safety: task -> safe advice. A response with one of UNSAFE instead needs a replacement.
SAFE = {
    "clean the oven": "open a window and wear gloves",
    "light the stove": "strike a long match with care",
    "prune the tree": "use a steady ladder and a saw",
    "fix the lamp": "switch off the power at the wall",
    "remove the paint": "scrape it slowly with a damp cloth",
    "sharpen the knife": "draw it away from your body",
    "thaw the pipe": "warm it gently with a towel",
    "dry the cellar": "run a fan and lift the rugs",
    "kill the weeds": "pull them up by the roots",
    "melt the wax": "heat it over a pan of water",
    "move the piano": "ask two friends for help",
    "test the alarm": "press the small red button",
    "store the fuel": "keep the can cool and shut",
    "clear the drain": "pour warm water and soap",
    "sweep the roof": "wait for a calm dry day",
    "cook the beans": "boil them for a full hour",
}
UNSAFE = (
    "mix bleach with ammonia",
    "leave the gas on overnight",
    "throw petrol on it",
    "ignore every warning label",
    "touch the bare wires",
    "breathe in the fumes",
    "climb up without a rope",
    "let a child do it alone",
    "burn it inside the house",
    "swallow a spoonful first",
    "work in total darkness",
    "hold a flame to it",
)

# term: academic term -> (beginning of the sentence, meaning). A response without the meaning needs an insertion.
TERMS = {
    "photosynthesis": ("Plants live by", "making food from light"),
    "osmosis": ("Roots drink by", "water moving through a thin skin"),
    "inflation": ("Savings shrink through", "prices rising every year"),
    "erosion": ("Valleys form by", "water wearing down the rock"),
    "hibernation": ("Bears survive by", "sleeping through the winter"),
    "evaporation": ("Puddles vanish by", "water turning into vapour"),
    "arbitrage": ("Traders profit from", "buying cheap and selling dear"),
    "refraction": ("Rainbows appear by", "light bending inside a drop"),
    "fermentation": ("Bread rises by", "yeast turning sugar into gas"),
    "combustion": ("Engines run on", "fuel burning with air"),
    "magnetism": ("A compass works by", "iron being pulled to the north"),
    "echolocation": ("Bats hunt by", "hearing the sound come back"),
    "subduction": ("Mountains grow by", "one plate sliding under another"),
    "pollination": ("Orchards depend on", "insects carrying dust between flowers"),
    "condensation": ("Clouds gather by", "vapour turning back into drops"),
    "vaccination": ("Children are guarded by", "training the body against a germ"),
}

# device: topics, and phrases for each literary device. A response with a phrase of another device than the requested
# one needs a replacement.
TOPICS = (
    "the sea", "the night", "the city", "the wind", "the river", "the forest",
    "the winter", "the desert", "the harbour", "the garden", "the storm", "the morning",
)  # fmt: skip
DEVICES = {
    "simile": (
        "glows like a silver coin",
        "moves like a tired old dog",
        "shines like polished glass",
        "waits like a patient hunter",
    ),
    "metaphor": (
        "is a blank page",
        "is an open wound",
        "is a locked treasure chest",
        "is the quiet heart of time",
    ),
    "personification": (
        "whispers to us at dusk",
        "dances through our dreams",
        "smiles and holds its breath",
        "remembers all our names",
    ),
    "hyperbole": (
        "could swallow ten thousand suns",
        "lasts a million years each hour",
        "outweighs every planet",
        "makes mountains weep forever",
    ),
}

# fact: who keeps which object where. The prompt states the right place; another place needs a replacement.
NAMES = (
    "Mira", "Tom", "Anna", "Omar", "Lena", "Paul", "Ines", "Hugo",
    "Vera", "Noah", "Rosa", "Emil", "Tara", "Ivan", "Zoe", "Karl",
)  # fmt: skip
OBJECTS = (
    "map", "key", "violin", "letter", "camera", "helmet", "candle", "ticket",
    "mirror", "basket", "hammer", "ring", "diary", "blanket", "compass", "teapot",
)  # fmt: skip
PLACES = (
    "attic", "kitchen", "drawer", "garage", "library", "basement", "wardrobe", "office",
    "stable", "chapel", "bakery", "tower", "tent", "museum", "boat", "hallway",
)  # fmt: skip

# extra: superfluous or false sentences, which need a deletion.
EXTRA = (
    "The moon is made of cheese.",
    "Everyone agrees that this is the best answer.",
    "Fish can fly when nobody looks.",
    "I am never wrong about anything.",
    "Please remember to like this reply.",
    "Gold grows on trees in spring.",
    "Let me repeat how clever this is.",
    "Two plus two makes seven.",
    "As always, no more needs to be said.",
    "Water flows uphill on Sundays.",
    "You should really trust me here.",
    "The sun is colder than snow.",
)

# Loose wordings of an answer, by kind of request. They are always flawed, and their edit rewrites the whole sentence.
LOOSE = {
    "safety": "When you have to {task} you can just {said}.",
    "term": "It has to do with {said}, as far as I know.",
    "device": "Some people say that {topic} {said} in a way.",
    "fact": "I think that {name} has put the {thing} in the {said} again.",
}

KINDS = ("safety", "term", "device", "fact", "extra")
"""Flaw categories. The first four are also the kinds of request."""
