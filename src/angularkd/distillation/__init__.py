"""Teacher and student together: the distiller, and teachers that run or answer from a cache behind one protocol."""

from angularkd.distillation.cached_teacher import CachedTeacher, storable, uncacheable
from angularkd.distillation.distiller import Distiller
from angularkd.distillation.filling import fill, verify
from angularkd.distillation.matching import built_for
from angularkd.distillation.networks import still
from angularkd.distillation.stored_caches import StoredCache, stored_caches
from angularkd.distillation.teacher import LiveTeacher, Request, Teacher
from angularkd.distillation.teacher_cache import About, TeacherCache, check_folder

__all__ = [
    "About",
    "CachedTeacher",
    "Distiller",
    "LiveTeacher",
    "Request",
    "StoredCache",
    "Teacher",
    "TeacherCache",
    "built_for",
    "check_folder",
    "fill",
    "still",
    "storable",
    "stored_caches",
    "uncacheable",
    "verify",
]
