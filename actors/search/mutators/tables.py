"""What people confuse: functions, methods, wraps and arguments, each with how often (0..1), as text tables.

A line is `name -> option @weight | option @weight`; a line that ends with `|` goes on in the next.
"""

from __future__ import annotations

Table = dict[str, dict[str, float]]


def _table(text: str) -> Table:
    table: Table = {}
    for line in text.replace("|\n", "| ").strip().splitlines():
        name, _, options = line.partition(" ->")
        pairs = [option.rsplit(" @", 1) for option in options.split(" | ")]
        table[name.strip()] = {option.strip(): float(weight) for option, weight in pairs}
    return table


#: A built-in or imported function for another.
FUNCTIONS = _table(
    r"""
    min -> max @0.9 | sum @0.2
    max -> min @0.9 | sum @0.2 | len @0.15
    any -> all @0.9
    all -> any @0.9
    sum -> len @0.4 | max @0.35 | min @0.25
    len -> sum @0.3 | max @0.2 | min @0.1
    sorted -> list @0.3 | set @0.2 | reversed @0.3
    reversed -> sorted @0.4 | list @0.2
    list -> set @0.3 | sorted @0.4 | tuple @0.3
    set -> list @0.4 | sorted @0.3
    tuple -> list @0.4
    int -> float @0.5 | round @0.6 | str @0.3 | abs @0.1 | math.floor @0.1 | math.ceil @0.1
    float -> int @0.5 | str @0.2 | round @0.2
    round -> int @0.6 | math.ceil @0.3 | math.floor @0.3
    str -> repr @0.3 | int @0.3 | bin @0.1
    repr -> str @0.5
    abs -> int @0.1 | round @0.1
    floor -> ceil @0.8
    ceil -> floor @0.8
    chr -> ord @0.5 | str @0.3
    ord -> chr @0.5 | int @0.3
    bin -> hex @0.4 | oct @0.4 | str @0.2
    hex -> bin @0.4 | oct @0.4
    oct -> bin @0.4 | hex @0.4
    map -> filter @0.5
    filter -> map @0.5
    zip -> enumerate @0.2
    isinstance -> issubclass @0.3
    sqrt -> floor @0.1
    Counter -> set @0.2 | list @0.2
    dict -> OrderedDict @0.1
    permutations -> combinations @0.7 | product @0.4
    combinations -> permutations @0.7 | product @0.3 | combinations_with_replacement @0.5
    timedelta -> datetime @0.1
    """
)

#: A method for another of the same object.
METHODS = _table(
    r"""
    append -> extend @0.7 | remove @0.2 | add @0.3 | appendleft @0.2
    extend -> append @0.7 | update @0.2
    add -> discard @0.4 | append @0.3 | remove @0.2 | update @0.4
    update -> add @0.4
    remove -> discard @0.5 | pop @0.4 | append @0.2
    discard -> add @0.4 | remove @0.4
    pop -> popleft @0.5 | remove @0.3 | get @0.3
    popleft -> pop @0.7
    appendleft -> append @0.7
    lower -> upper @0.8 | swapcase @0.4 | strip @0.3 | casefold @0.2
    upper -> lower @0.8 | swapcase @0.3 | capitalize @0.4 | title @0.4
    title -> capitalize @0.7 | upper @0.4 | lower @0.3
    capitalize -> title @0.7 | upper @0.4
    swapcase -> lower @0.4 | upper @0.4
    strip -> lstrip @0.5 | rstrip @0.5 | split @0.3
    lstrip -> rstrip @0.7 | strip @0.8
    rstrip -> lstrip @0.7 | strip @0.8
    startswith -> endswith @0.9 | find @0.1
    endswith -> startswith @0.9
    find -> rfind @0.7 | index @0.5
    rfind -> find @0.7
    index -> rindex @0.6 | find @0.6 | count @0.3
    rindex -> index @0.7
    keys -> values @0.8 | items @0.6
    values -> keys @0.8 | items @0.6
    items -> keys @0.6 | values @0.6
    isdigit -> isalpha @0.4 | isnumeric @0.3 | isalnum @0.4 | isdecimal @0.3
    isalpha -> isalnum @0.6 | isdigit @0.4 | isupper @0.2 | islower @0.2
    isalnum -> isalpha @0.6 | isdigit @0.4
    isupper -> islower @0.8 | istitle @0.3
    islower -> isupper @0.8
    isspace -> isalpha @0.3
    split -> rsplit @0.5 | splitlines @0.4 | partition @0.2 | strip @0.2
    rsplit -> split @0.6
    splitlines -> split @0.5
    partition -> rpartition @0.7 | split @0.3
    rpartition -> partition @0.7
    count -> index @0.3 | find @0.3
    union -> intersection @0.6 | difference @0.4 | symmetric_difference @0.3
    intersection -> union @0.6 | difference @0.5
    difference -> symmetric_difference @0.5 | intersection @0.5 | union @0.3
    symmetric_difference -> difference @0.5
    issubset -> issuperset @0.8
    issuperset -> issubset @0.8
    ljust -> rjust @0.8 | center @0.4
    rjust -> ljust @0.8 | center @0.4 | zfill @0.3
    floor -> ceil @0.8
    ceil -> floor @0.8
    log -> log2 @0.4 | log10 @0.4
    match -> fullmatch @0.7 | search @0.6
    search -> match @0.5 | fullmatch @0.4
    get -> pop @0.3 | setdefault @0.4
    setdefault -> get @0.4
    read -> readlines @0.4 | readline @0.2
    total_seconds -> seconds @0.1
    popitem -> pop @0.4
    insert -> append @0.4
    median -> mean @0.5
    mean -> median @0.5
    put -> get @0.2
    heappush -> heapreplace @0.2
    bisect_left -> bisect_right @0.9
    bisect_right -> bisect_left @0.9
    nlargest -> nsmallest @0.9
    nsmallest -> nlargest @0.9
    """
)

#: By type of the expression `{}`: what may have to be put around it; the empty type is the unknown one.
WRAPS = _table(
    r"""
    int -> abs({}) @0.45 | str({}) @0.4 | float({}) @0.2 | bool({}) @0.05 | {} % 10 @0.1 | {} // 2 @0.1
    float -> round({}) @0.5 | int({}) @0.5 | round({}, 2) @0.55 | abs({}) @0.45 | str({}) @0.25 |
        math.floor({}) @0.15 | math.ceil({}) @0.15 | round({}, 1) @0.15
    str -> {}.strip() @0.45 | {}.lower() @0.5 | {}.upper() @0.35 | int({}) @0.45 | float({}) @0.3 |
        {}[::-1] @0.35 | len({}) @0.3 | {}.split() @0.3 | {}.title() @0.2 | {}.capitalize() @0.25 |
        list({}) @0.2 | set({}) @0.3 | sorted({}) @0.3 | {}.replace(" ", "") @0.2 | {}.swapcase() @0.15 |
        ord({}) @0.2 | {}.lstrip() @0.1 | {}.rstrip() @0.2
    list -> sorted({}) @0.5 | set({}) @0.4 | len({}) @0.4 | list({}) @0.25 | {}[::-1] @0.45 |
        {}.copy() @0.45 | sum({}) @0.25 | tuple({}) @0.25 | {}[1:] @0.3 | {}[:-1] @0.3 | max({}) @0.2 |
        min({}) @0.2 | "".join({}) @0.3 | sorted({}, reverse=True) @0.25 | list(set({})) @0.2 |
        sorted(set({})) @0.3 | any({}) @0.1 | all({}) @0.1 | list(dict.fromkeys({})) @0.2 | {}[0] @0.15 |
        {}[-1] @0.15 | " ".join({}) @0.2 | enumerate({}) @0.1
    dict -> {}.items() @0.5 | {}.values() @0.5 | {}.keys() @0.2 | {}.copy() @0.5 | dict({}) @0.3 |
        len({}) @0.3 | sorted({}) @0.3 | list({}) @0.3
    set -> sorted({}) @0.6 | len({}) @0.5 | list({}) @0.4 | {}.copy() @0.2
    tuple -> list({}) @0.4 | sorted({}) @0.3 | len({}) @0.3 | {}[0] @0.3 | {}[1] @0.3 | set({}) @0.3 |
        tuple(sorted({})) @0.3
    bool -> int({}) @0.15
     -> abs({}) @0.3 | str({}) @0.3 | int({}) @0.3 | round({}) @0.2 | round({}, 2) @0.3 | len({}) @0.3 |
        sorted({}) @0.3 | list({}) @0.25 | set({}) @0.25 | {}.strip() @0.2 | {}.lower() @0.25 |
        {}[::-1] @0.25 | {}.copy() @0.2 | tuple({}) @0.15 | float({}) @0.15 | sum({}) @0.15 |
        "".join({}) @0.15 | {}.upper() @0.1 | {}[0] @0.1 | {}[-1] @0.1 | max({}) @0.1 | min({}) @0.1 |
        {}.items() @0.1 | bool({}) @0.1 | reversed({}) @0.1
    """
)

#: Arguments that a function commonly takes.
ARGUMENTS = _table(
    r"""
    sorted -> reverse=True @0.7 | key=len @0.3 | key=lambda item: item[1] @0.3 |
        key=lambda item: -item[1] @0.2 | key=str.lower @0.25 | key=lambda item: item[0] @0.2 |
        key=abs @0.1 | key=str @0.1
    sort -> reverse=True @0.7 | key=len @0.3 | key=lambda item: item[1] @0.3 | key=str.lower @0.25
    max -> key=lambda item: item[1] @0.35 | key=lambda item: item[0] @0.15 |
        default=0 @0.4 | default=None @0.4 | key=len @0.4 | key=abs @0.2 | 0 @0.2 | 1 @0.1
    min -> key=lambda item: item[1] @0.35 | key=lambda item: item[0] @0.15 |
        default=0 @0.4 | default=None @0.4 | key=len @0.4 | key=abs @0.2
    round -> 2 @0.7 | 1 @0.3 | 3 @0.2 | 0 @0.1
    enumerate -> 1 @0.6 | start=1 @0.5
    get -> 0 @0.5 | [] @0.3 | "" @0.3 | None @0.1 | {} @0.1 | False @0.1
    pop -> 0 @0.5 | None @0.2 | -1 @0.1
    split -> "," @0.4 | " " @0.3 | "\n" @0.2 | ":" @0.1 | "-" @0.1
    int -> 2 @0.2 | 16 @0.1
    sum -> [] @0.2
    next -> None @0.3
    strip -> "." @0.1
    dumps -> sort_keys=True @0.3
    zip -> strict=True @0.1
    replace -> 1 @0.2
    getattr -> None @0.3
    popitem -> last=False @0.7
    move_to_end -> last=False @0.4
    isclose -> abs_tol=1e-9 @0.2
    """
)
