import pytest
from hypothesis import given
from hypothesis import strategies as st

from alnb.papers.published import published

COLUMNS = "paper,item,dataset,arm,strategy,labelled_percent,n_labelled,metric,value,kind,source,note"
TRAIN = {"cifar10": (50_000, 10), "cifar100": (50_000, 100), "tiny_imagenet": (90_000, 200)}


def test_table_1_is_whole() -> None:
    table = published("bengar2021", item="Table 1")
    found = table.pivot(index=["arm", "strategy"], columns="dataset", values="value")
    assert found.to_dict("index") == {
        ("scratch", "entropy"): {"cifar10": 0.908, "cifar100": 0.646},
        ("scratch", "kcenter"): {"cifar10": 0.895, "cifar100": 0.641},
        ("frozen", "entropy"): {"cifar10": 0.911, "cifar100": 0.649},
        ("frozen", "svm_margin"): {"cifar10": 0.909, "cifar100": 0.644},
        ("frozen", "vaal"): {"cifar10": 0.907, "cifar100": 0.648},
        ("frozen", "kcenter"): {"cifar10": 0.909, "cifar100": 0.645},
    }
    assert (table["labelled_percent"] == 50).all() and (table["n_labelled"] == 25_000).all() and (table["kind"] == "printed").all()


@pytest.mark.parametrize(
    ("dataset", "arm", "value", "kind"),
    [
        ("cifar10", "frozen", 50, "printed"),
        ("cifar10", "scratch", 500, "printed"),
        ("cifar100", "frozen", 50, "bound"),
        ("tiny_imagenet", "frozen", 225, "bound"),
        ("tiny_imagenet", "scratch", 45, "printed"),
    ],
)
def test_thresholds_stated_and_implied(dataset: str, arm: str, value: float, kind: str) -> None:
    row = published("bengar2021", metric="threshold_per_class", dataset=dataset, arm=arm).iloc[0]
    assert row["value"] == value and row["kind"] == kind and ("lower bound" in row["note"]) == (kind == "bound")


def test_savings_and_correlation() -> None:
    saved = published("bengar2021", metric="labels_saved").set_index("dataset")
    assert saved["value"].to_dict() == {"cifar10": 10_000, "cifar100": 5_000}
    assert saved["labelled_percent"].to_dict() == {"cifar10": 30, "cifar100": 40}
    share = published("bengar2021", metric="percent_saved").set_index("dataset")["value"]
    assert (saved["labelled_percent"] + share == 50).all()  # both are savings against half of the data set
    assert published(item="Figure 6", metric="correlation")["value"].item() == 0.99


def test_numbers_of_labels_agree_with_each_other() -> None:
    table = published("bengar2021").query("dataset != ''")
    for row in table.itertuples():
        images, classes = TRAIN[row.dataset]
        assert row.n_labelled == images * row.labelled_percent / 100, row
        if row.metric == "threshold_per_class":
            assert row.value == row.n_labelled / classes, row
    other = published("luth2023")
    balanced = other[other["dataset"].isin(TRAIN)]
    assert (balanced["n_labelled"] == 500 * balanced["labelled_percent"]).all()


def test_every_row_is_whole_and_no_number_stands_twice() -> None:
    table = published()
    assert list(table.columns) == COLUMNS.split(",") and len(table) > 100
    assert table[["paper", "item", "metric", "value", "kind", "source", "note"]].notna().all(axis=None)
    assert not (table[["paper", "item", "metric", "source", "note"]] == "").any(axis=None)
    assert not table.duplicated(["paper", "item", "dataset", "arm", "strategy", "metric"]).any()
    assert set(table["kind"]) == {"printed", "inferred", "bound"}
    fractions = table[table["metric"].isin(["accuracy", "area_under_budget_curve"])]["value"]
    assert fractions.between(0.2, 1).all()
    figures = table["source"].str.contains("Figure") | table["item"].str.contains("Figure")
    assert set(table[figures]["metric"]) == {"correlation", "points"}  # nothing was read off a figure


def test_independent_numbers_show_both_what_pretraining_and_what_strategies_give() -> None:
    means = published("luth2023", dataset="cifar10", n_labelled=500).set_index(["arm", "strategy"])["value"]
    assert means["finetuned", "random"] - means["scratch", "random"] > 0.3
    assert means["finetuned", "entropy"] < means["finetuned", "random"] < means["finetuned", "kcenter"]
    assert set(published("luth2023")["arm"]) == {"finetuned", "scratch", "fixmatch"}


@given(st.sampled_from(["paper", "dataset", "arm", "strategy", "metric", "n_labelled"]), st.data())
def test_a_filter_keeps_what_a_loop_would(column: str, data: st.DataObject) -> None:
    table = published()
    value = data.draw(st.sampled_from(sorted(table[column].dropna().unique())))
    kept = [row for row in table.to_dict("records") if row[column] == value]
    found = published(**{column: value})
    assert list(found["value"]) == [row["value"] for row in kept] and list(found.index) == list(range(len(kept)))


def test_a_misspelt_filter_is_an_error_and_an_empty_meeting_is_not() -> None:
    with pytest.raises(ValueError, match="no column 'data_set': filter by one of paper"):
        published(data_set="cifar10")
    with pytest.raises(ValueError, match=r"no published number has dataset 'cifar-10': there are .*cifar10"):
        published(dataset="cifar-10")
    with pytest.raises(ValueError, match="has paper 'bengar': there are bengar2021, luth2023"):
        published("bengar")
    assert published("bengar2021", strategy="badge").empty


def test_numbers_whose_baseline_or_pretext_is_not_named_are_inferred() -> None:
    inferred = published()[published()["kind"] == "inferred"]
    assert set(zip(inferred["item"], inferred["strategy"], strict=True)) == {
        ("CIFAR-10, last iteration", "random"), ("Figure 2", "rotation"), ("Figure 2, SimSiam", "simsiam"),
    }  # fmt: skip
