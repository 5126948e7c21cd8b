//! What is not as the file wants it at GitHub, though the scale set works: told, never a failure.

/// One thing to know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    pub kind: NoteKind,
    /// One sentence.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NoteKind {
    /// A label of the file is not stored: jobs that ask for it do not come.
    LabelMissing,
    /// A label is stored that the file does not name.
    LabelKept,
    /// The service does not change labels at all.
    LabelsFixed,
    /// Name or group differ.
    Placement,
    /// A set of the same name stands in another group: jobs may go there.
    NameElsewhere,
    /// The runner group lets no job of public repositories in.
    GroupNotPublic,
    /// The runner group is limited to repositories (organizations) of a list, and the list is empty.
    GroupEmpty,
    /// The runner group is limited to some workflows.
    GroupWorkflows,
    /// GitHub does not take what the file says of the set now: it works as it was before.
    ChangeRefused,
}

impl NoteKind {
    /// Stable, for metrics and status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LabelMissing => "label_missing",
            Self::LabelKept => "label_kept",
            Self::LabelsFixed => "labels_fixed",
            Self::Placement => "placement",
            Self::NameElsewhere => "name_elsewhere",
            Self::GroupNotPublic => "group_not_public",
            Self::GroupEmpty => "group_empty",
            Self::GroupWorkflows => "group_workflows",
            Self::ChangeRefused => "change_refused",
        }
    }
}

impl NoteKind {
    /// GitHub's own default, and right for whoever has no public repositories: no reason to worry anybody.
    pub fn is_usual(self) -> bool {
        self == Self::GroupNotPublic
    }
}

impl Note {
    pub fn new(kind: NoteKind, message: String) -> Self {
        Self { kind, message }
    }
}
