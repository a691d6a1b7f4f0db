"""Teacher and student together: the distiller, and teachers that run or answer from a cache behind one protocol."""

from angularkd.distillation.cached_teacher import CachedTeacher, uncacheable
from angularkd.distillation.distiller import Distiller
from angularkd.distillation.filling import Filled, fill, verify
from angularkd.distillation.teacher import LiveTeacher, Request, Teacher, Transform
from angularkd.distillation.teacher_cache import About, TeacherCache

__all__ = [
    "About",
    "CachedTeacher",
    "Distiller",
    "Filled",
    "LiveTeacher",
    "Request",
    "Teacher",
    "TeacherCache",
    "Transform",
    "fill",
    "uncacheable",
    "verify",
]
