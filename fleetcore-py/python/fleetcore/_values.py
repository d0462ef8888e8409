"""Plain values: frozen, compared by content, with a readable ``repr``, as dataclasses are. Making a dataclass costs a
millisecond each, and importing what makes them ten; a script that runs one command should not wait for that.
``dataclasses.asdict``, ``fields``, ``replace`` and pattern matching work."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, dataclass_transform

    def field(
        *, default: Any = ..., default_factory: Callable[[], Any] = ..., repr: bool = ...
    ) -> Any: ...

    @dataclass_transform(frozen_default=True, field_specifiers=(field,))
    class Value:
        pass

else:
    _MISSING = object()

    class field:
        """A default that is made anew for each value, or a field that ``repr`` leaves out."""

        __slots__ = ("default", "factory", "repr")

        def __init__(self, *, default=_MISSING, default_factory=None, repr=True):
            self.default, self.factory, self.repr = default, default_factory, repr

    class _DataclassFields:
        """What makes the functions of `dataclasses` work, once somebody asks."""

        def __get__(self, value, cls):
            made = cls.__dict__.get("_made_fields")
            if made is None:
                import dataclasses

                rows = []
                for name, known in cls._fields.items():
                    options = {"repr": known.repr}
                    if known.factory is not None:
                        options["default_factory"] = known.factory
                    elif known.default is not _MISSING:
                        options["default"] = known.default
                    rows.append((name, cls.__annotations__[name], dataclasses.field(**options)))
                made = dataclasses.make_dataclass(cls.__name__, rows).__dataclass_fields__
                cls._made_fields = made
            return made

    class _Signature:
        """What `inspect.signature` and ``help`` show."""

        def __get__(self, value, cls):
            from inspect import Parameter, Signature

            rows = []
            for name, known in cls._fields.items():
                default = Parameter.empty if known.default is _MISSING else known.default
                if known.factory is not None:
                    default = known.factory()
                annotation = cls.__annotations__[name]
                rows.append(Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation))
            return Signature(rows)

    class Value:
        """A value: its annotations are its fields."""

        __dataclass_fields__ = _DataclassFields()
        __signature__ = _Signature()
        _fields = {}

        def __init_subclass__(cls):
            cls._fields = fields = {}
            for name in cls.__annotations__:
                default = cls.__dict__.get(name, _MISSING)
                if isinstance(default, field):
                    delattr(cls, name)
                    fields[name] = default
                else:
                    fields[name] = field(default=default)
            cls.__match_args__ = tuple(fields)

        def __init__(self, *given, **named):
            names = self.__match_args__
            if len(given) > len(names):
                raise TypeError(f"{type(self).__name__}() takes {len(names)} arguments, not {len(given)}")
            state = self.__dict__
            state.update(zip(names, given))
            for name, value in named.items():
                if name not in self._fields:
                    raise TypeError(f"{type(self).__name__}() has no field {name!r}")
                if name in state:
                    raise TypeError(f"{type(self).__name__}() got {name!r} twice")
                state[name] = value
            if len(state) == len(names):
                return
            for name, known in self._fields.items():
                if name not in state:
                    if known.factory is not None:
                        state[name] = known.factory()
                    elif known.default is not _MISSING:
                        state[name] = known.default
                    else:
                        raise TypeError(f"{type(self).__name__}() needs {name!r}")

        def __setattr__(self, name, value):
            raise AttributeError(f"cannot set {name!r}: {type(self).__name__} does not change")

        def __delattr__(self, name):
            raise AttributeError(f"cannot delete {name!r}: {type(self).__name__} does not change")

        def _values(self):
            state = self.__dict__
            return tuple([state[name] for name in self.__match_args__])

        def __eq__(self, other):
            if other.__class__ is not self.__class__:
                return NotImplemented
            return self._values() == other._values()

        def __hash__(self):
            return hash(self._values())

        def __repr__(self):
            shown = ((name, self.__dict__[name]) for name, known in self._fields.items() if known.repr)
            return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown)})"
